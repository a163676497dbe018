"""Zygote and shim: the processes between the daemon and a container."""
