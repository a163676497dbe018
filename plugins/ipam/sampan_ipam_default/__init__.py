"""IPAM driver default: subnets from pools, lowest free addresses."""
