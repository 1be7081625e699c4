"""MLflow behind the journal. The only package that imports mlflow."""
