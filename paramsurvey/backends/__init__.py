"""Where chunks are executed: in this process, on this machine's cores, on a cluster."""
