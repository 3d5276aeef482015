"""One guided call: noise, the guidance rule, the supported schedulers and the pipeline; torch and diffusers only."""
