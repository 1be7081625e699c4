"""The operating system: signals, temporary folders, fault injection."""
