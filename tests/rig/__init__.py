"""A real Kubernetes on this machine, without a GPU (DESIGN §9): used by make demo and the e2e tests."""
