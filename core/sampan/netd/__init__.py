"""sampan-netd: one small process that answers names in every sandbox and passes on what the kernel cannot translate.

It outlives the daemon, and holds nothing that the daemon could not tell it again. What it can be asked is told by its
services (`service.Service`): `nameservers` and, for ports, `proxy`. The daemon's side is `sampan.engine.netd`.
"""
