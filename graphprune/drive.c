/* Runs a compiled model on arrays from files: drive FOLDER SCRATCH
 *
 * Input i is SCRATCH/input_i, output i goes to SCRATCH/output_i, raw bytes both. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static void fail(const char* what, const char* why) {
  fprintf(stderr, "error: %s: %s\n", what, why);
  exit(1);
}

/* The file's content, aligned as weights must be; `bytes` is what it must hold. */
static void* read_file(const char* path, size_t bytes) {
  FILE* file = fopen(path, "rb");
  char* data = aligned_alloc(64, bytes / 64 * 64 + 64);
  if (!file || !data || fread(data, 1, bytes, file) != bytes) fail(path, "cannot be read");
  fclose(file);
  return data;
}

int main(int count, char** arguments) {
  const void* inputs[GRAPHPRUNE_INPUTS + 1];
  void* outputs[GRAPHPRUNE_OUTPUTS + 1];
  char path[4096];
  const char* reason;
  if (count != 3) fail("usage", "drive FOLDER SCRATCH");
  snprintf(path, sizeof path, "%s/weights.bin", arguments[1]);
  graphprune_model* model =
      GRAPHPRUNE_EMBEDDED ? graphprune_create(0, 0, &reason)
                          : graphprune_create(read_file(path, GRAPHPRUNE_WEIGHTS_BYTES), GRAPHPRUNE_WEIGHTS_BYTES, &reason);
  if (!model) fail("graphprune_create", reason);
  for (int i = 0; i < GRAPHPRUNE_INPUTS; ++i) {
    snprintf(path, sizeof path, "%s/input_%d", arguments[2], i);
    inputs[i] = read_file(path, graphprune_input(i)->bytes);
  }
  for (int i = 0; i < GRAPHPRUNE_OUTPUTS; ++i) outputs[i] = malloc(graphprune_output(i)->bytes + 1);
  if (graphprune_run(model, inputs, outputs)) fail("graphprune_run", graphprune_error(model));
  for (int i = 0; i < GRAPHPRUNE_OUTPUTS; ++i) {
    snprintf(path, sizeof path, "%s/output_%d", arguments[2], i);
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(outputs[i], 1, graphprune_output(i)->bytes, file) != graphprune_output(i)->bytes)
      fail(path, "cannot be written");
    fclose(file);
  }
  graphprune_destroy(model);
  return 0;
}
