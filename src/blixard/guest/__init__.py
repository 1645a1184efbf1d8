"""The agent inside a guest: standard library only, one file when shipped."""
