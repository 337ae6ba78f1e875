"""A double of NVIDIA's management library, for machines without a GPU."""
