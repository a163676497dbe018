"""Runs containers by itself: namespaces, cgroups, mounts and seccomp by system calls, without a helper
program."""
