"""The two images the rig has: the sandbox and the demo's workload. Nothing is pulled."""
