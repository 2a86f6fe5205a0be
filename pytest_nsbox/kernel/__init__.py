"""Bindings to the kernel, without policy: system calls by their man-page names, and what /proc says."""
