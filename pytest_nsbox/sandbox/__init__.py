"""A sandbox for any forked process. Nothing here knows pytest."""
