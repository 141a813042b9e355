"""What this machine is and does: processor, memory, GPU, usage, and what the system says of processes that ended."""
