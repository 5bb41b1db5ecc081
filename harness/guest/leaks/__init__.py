"""What the kernel holds, counted in the guest, and where each object was created."""
