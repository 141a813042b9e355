"""Unstable names of llama-cpp-python: the parameters for loading a model.

No other part of the engine uses them.
"""

from typing import Any

from studio.engine.compat.contract import Name


def use_weights_as_they_lie() -> None:
    """Have llama.cpp compute on the file's own weight layout, for the rest of this process.

    With its repacking for AMX, 0.3.36 crashed with a segmentation fault on a Q8_0 file.
    """
    import llama_cpp

    default_params = llama_cpp.llama_cpp.llama_model_default_params

    def params() -> Any:
        values = default_params()
        values.use_extra_bufts = False
        return values

    llama_cpp.llama_cpp.llama_model_default_params = params


RELIES_ON: tuple[Name, ...] = (
    Name(
        "llama_cpp.llama_cpp.llama_model_default_params",
        "a GGUF could not be checked on a processor with AMX: llama.cpp would crash with a segmentation fault",
        holds=lambda default_params: hasattr(default_params(), "use_extra_bufts"),
    ),
    Name(
        "llama_cpp.Llama",
        "a GGUF could not be compared with its source model, or only with repacked weights",
        # The constructor creates `scores` and looks up the parameters in its module at call time.
        holds=lambda kind: {"scores", "llama_model_default_params"} <= set(kind.__init__.__code__.co_names),
    ),
    Name(
        "llama_cpp.Llama.eval",
        "a GGUF could not be compared with its source model",
        takes=("tokens",),
    ),
    Name(
        "llama_cpp.llama_chat_format.Jinja2ChatFormatter",
        "a GGUF's own template could not be compared with the model's",
        takes=("template", "eos_token", "bos_token"),
    ),
)
