"""The web server: application, guard, sessions, sign-in, the named API, the pulse."""
