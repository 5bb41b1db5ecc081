"""What a test sees of its guest: objects on the host that act in the guest."""
