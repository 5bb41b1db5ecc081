"""What a test sees of its guest: plain objects on the host that act there."""
