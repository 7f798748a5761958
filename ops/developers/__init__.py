"""Who may use an environment: adding, changing, proving and removing; the host does the rest."""
