"""The parent process: watches the inbox, keeps intake worker and trainer alive. Never imports torch."""
