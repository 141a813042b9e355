"""The engine: everything that needs torch, as worker processes started by module name.

    python -m studio.engine.workers.train RUN_DIR --nonce X       a run: recipe and dataset in, adapter out
    python -m studio.engine.workers.export EXPORT_DIR --nonce X   an adapter archive or a merged model
    python -m studio.engine.workers.chat --model FOLDER …         answers over stdin and stdout
    python -m studio.engine.workers.prepare --gguf FILE --out F   convert a GGUF file to a model folder

The engine depends on recipes, run directories and datasets, and on nothing from pages, databases or the launcher.
No other package imports it.
"""
