"""Guests from Debian packages: kernel, small initramfs, read-only root, runner directory."""
