/* Runs a compiled model on zeros: arm WEIGHTS TIMES. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

int main(int count, char** arguments) {
  const void* inputs[GRAPHPRUNE_INPUTS + 1];
  void* outputs[GRAPHPRUNE_OUTPUTS + 1];
  void* weights = aligned_alloc(64, GRAPHPRUNE_WEIGHTS_BYTES / 64 * 64 + 64);
  FILE* file = count == 3 ? fopen(arguments[1], "rb") : 0;
  if (!file || fread(weights, 1, GRAPHPRUNE_WEIGHTS_BYTES, file) != GRAPHPRUNE_WEIGHTS_BYTES) return 2;
  for (int i = 0; i < GRAPHPRUNE_INPUTS; ++i) inputs[i] = calloc(1, graphprune_input(i)->bytes);
  for (int i = 0; i < GRAPHPRUNE_OUTPUTS; ++i) outputs[i] = malloc(graphprune_output(i)->bytes);
  graphprune_model* model = graphprune_create(weights, GRAPHPRUNE_WEIGHTS_BYTES, 0);
  for (int i = 0; i < atoi(arguments[2]); ++i)
    if (!model || graphprune_run(model, inputs, outputs)) return 1;
  return 0;
}
