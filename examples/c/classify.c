/* Runs a compiled model of one float32 input and output: classify WEIGHTS IMAGE
 *
 * WEIGHTS is the folder's weights.bin, IMAGE raw float32 values of the input's size. Prints the highest output. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static int fail(const char* what, const char* why) { return fprintf(stderr, "%s: %s\n", what, why), 1; }

/* A file's content, at a multiple of 64 bytes as weights must be; null where it cannot be read. */
static void* read_file(const char* path, size_t* bytes) {
  FILE* file = fopen(path, "rb");
  if (!file) return 0;
  fseek(file, 0, SEEK_END);
  *bytes = (size_t)ftell(file);
  rewind(file);
  void* data = aligned_alloc(64, *bytes / 64 * 64 + 64);
  if (data && fread(data, 1, *bytes, file) != *bytes) data = 0;
  fclose(file);
  return data;
}

int main(int count, char** arguments) {
  if (count != 3) return fail("usage", "classify WEIGHTS IMAGE");
  size_t weights_bytes, image_bytes, scores_bytes = GRAPHPRUNE_OUTPUT_0_BYTES;
  void* weights = read_file(arguments[1], &weights_bytes);
  if (!weights) return fail(arguments[1], "cannot be read");
  void* image = read_file(arguments[2], &image_bytes);
  if (!image) return fail(arguments[2], "cannot be read");

  const char* reason;
  graphprune_model* model = graphprune_create(weights, weights_bytes, &reason);
  if (!model) return fail("graphprune_create", reason);
  static float scores[GRAPHPRUNE_OUTPUT_0_BYTES / sizeof(float)];
  const void* inputs[] = {image};
  void* outputs[] = {scores};
  if (graphprune_run_sized(model, inputs, &image_bytes, outputs, &scores_bytes))
    return fail("graphprune_run", graphprune_error(model));

  size_t best = 0;
  for (size_t i = 1; i < sizeof scores / sizeof *scores; ++i)
    if (scores[i] > scores[best]) best = i;
  printf("class %zu, %s %g\n", best, GRAPHPRUNE_OUTPUT_0_NAME, scores[best]);
  graphprune_destroy(model);
  free(weights);
  free(image);
  return 0;
}
