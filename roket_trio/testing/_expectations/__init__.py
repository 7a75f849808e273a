"""What a test expects of a close that a scripted peer or relay sees, and the verdict."""
