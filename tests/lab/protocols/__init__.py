"""What the step `quiet` does while requests of several protocols are at several moments."""
