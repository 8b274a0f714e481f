"""What is computed: the layers."""
