"""What the studio can do, one module a noun. Pages and command line call nothing else."""
