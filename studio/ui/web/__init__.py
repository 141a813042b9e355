"""The web server: application, request guard, sessions, sign-in, named API and live updates."""
