"""Every touch of the inside of Gradio and uvicorn."""
