"""What the tests here share: the binary, AWS as moto plays it, sidecars and what they see of their task."""
