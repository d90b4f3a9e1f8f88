"""What stages hand on to each other, as whoever comes after reads it. Knows nothing of Prefect."""
