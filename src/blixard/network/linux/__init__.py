"""The node's network on a Linux kernel: bridge, VXLAN, taps, forwarding entries, NAT."""
