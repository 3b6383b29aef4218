"""`understudy report`: one static page from a result, whole in itself."""
