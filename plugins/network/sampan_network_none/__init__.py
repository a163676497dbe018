"""Network driver none: a loopback interface and nothing else."""
