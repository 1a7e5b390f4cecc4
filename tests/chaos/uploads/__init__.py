"""What the upload test uploads, and how it looks at the server afterwards."""
