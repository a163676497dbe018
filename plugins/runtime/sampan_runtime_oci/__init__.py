"""Runtime oci: any OCI runtime's command line."""
