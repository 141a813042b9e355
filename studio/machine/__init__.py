"""Facts on this machine: processor, memory, GPU, usage, and the system's evidence on processes that ended."""
