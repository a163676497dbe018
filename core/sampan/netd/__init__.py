"""sampan-netd: one small process that answers names in every sandbox and passes on what the kernel cannot translate.

It outlives the daemon, and holds nothing that the daemon could not tell it again.
"""
