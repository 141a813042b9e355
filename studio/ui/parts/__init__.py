"""Components and HTML helpers shared by all pages."""
