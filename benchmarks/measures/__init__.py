"""What is measured, one module a figure. Each function measures one system once and returns plain figures."""
