// The workload of the demo and of the tests: says which GPU it was given and answers HTTP until it is told to end.
//
//	demo                 serve on $PORT (8080): / is the GPU and the host's name, /env the environment
//	demo env             print the environment
//	demo fetch URL       exit 0 if URL answers within 3 s (for reachability and network policies)
//	demo exit CODE       exit with CODE
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func gpu() string {
	if v := os.Getenv("NVIDIA_VISIBLE_DEVICES"); v != "" {
		return v
	}
	return "none"
}

func serve() {
	host, _ := os.Hostname()
	line := fmt.Sprintf("host=%s NVIDIA_VISIBLE_DEVICES=%s\n", host, gpu())
	fmt.Print(line)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, line) })
	http.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.Join(os.Environ(), "\n"))
	})
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	go func() {
		if err := http.ListenAndServe(":"+port, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	<-told
}

func fetch(url string) int {
	answer, err := (&http.Client{Timeout: 3 * time.Second}).Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer answer.Body.Close()
	fmt.Println(answer.Status)
	return 0
}

func main() {
	args := append(os.Args[1:], "", "")
	switch args[0] {
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "fetch":
		os.Exit(fetch(args[1]))
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	default:
		serve()
	}
}
