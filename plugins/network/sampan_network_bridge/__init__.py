"""Network driver bridge: a Linux bridge, NAT and published ports."""
