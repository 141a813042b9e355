"""The engine: everything that needs torch, as workers that are started by name.

    python -m studio.engine.workers.train RUN_DIR --nonce X       a run: recipe and dataset in, adapter out
    python -m studio.engine.workers.export EXPORT_DIR --nonce X   an adapter archive or a merged model
    python -m studio.engine.workers.chat --model FOLDER …         answers over stdin and stdout
    python -m studio.engine.workers.prepare --gguf FILE --out F   a GGUF file made into a model folder

It knows recipes, run directories and datasets; it knows nothing of pages, databases or who started it.
Nothing imports it.
"""
