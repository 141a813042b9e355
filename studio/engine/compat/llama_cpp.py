"""The names of llama-cpp-python that it does not promise to keep: how it is told to load a model.

Nothing else in the engine touches them.
"""

from typing import Any

from studio.engine.compat.contract import Name


def use_weights_as_they_lie() -> None:
    """Have llama.cpp compute on the weights as they lie in the file, from now on in this process.

    Where it lays them out anew for AMX, 0.3.36 ended with a segmentation fault on a Q8_0 file.
    """
    import llama_cpp

    given = llama_cpp.llama_cpp.llama_model_default_params

    def params() -> Any:
        made = given()
        made.use_extra_bufts = False
        return made

    llama_cpp.llama_cpp.llama_model_default_params = params


RELIES_ON: tuple[Name, ...] = (
    Name(
        "llama_cpp.llama_cpp.llama_model_default_params",
        "a GGUF could not be checked on a processor with AMX: llama.cpp would end with a segmentation fault",
        holds=lambda given: hasattr(given(), "use_extra_bufts"),
    ),
    Name(
        "llama_cpp.Llama",
        "a GGUF could not be held against the model it was made of, or would be by weights laid out anew",
        # `scores` is made by the constructor, which asks its module for the parameters when it is called.
        holds=lambda kind: {"scores", "llama_model_default_params"} <= set(kind.__init__.__code__.co_names),
    ),
    Name(
        "llama_cpp.Llama.eval",
        "a GGUF could not be held against the model it was made of",
        takes=("tokens",),
    ),
    Name(
        "llama_cpp.llama_chat_format.Jinja2ChatFormatter",
        "a GGUF's own template could not be held against the model's",
        takes=("template", "eos_token", "bos_token"),
    ),
)
