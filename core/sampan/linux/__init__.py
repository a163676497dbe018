"""System calls and kernel objects, and nothing else: imports nothing of ours.

Public, under the same versioning as `sampan.api`: `mounts`, `namespaces`, `netlink`, `nftables`, `syscalls`, `files`, `exits`.
The other modules are for the core and may change.
"""
