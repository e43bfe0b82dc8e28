"""The command `altclip` for launchers: `accelerate launch -m altclip train stage2 RECIPE.yaml`."""

from altclip.command import main

if __name__ == "__main__":
    main()
