"""Every night: Prefect flows around the commands. The only package that imports Prefect."""
