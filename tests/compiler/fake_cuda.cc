// A driver without a graphics processor: what cuda.c.in asks of libcuda.so.1, with the kernels themselves, which are CUDA
// and are compiled here as C++, run on the processor. Blocks come one after the other; the threads of a block are
// coroutines that take turns at every barrier, so shared memory and exchanges within a warp mean what they mean there.
#include <dlfcn.h>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <type_traits>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <vector>

struct Index { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static int2 make_int2(int x, int y) { return {x, y}; }
static int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static Index threadIdx, blockIdx, blockDim;
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

enum { MOST = 1024, STACK = 1 << 16 };
static ucontext_t scheduler, threads[MOST];
static char* stacks;
static int current, alive[MOST];
static uint64_t exchanged[MOST];

static void __syncthreads() { swapcontext(&threads[current], &scheduler); }
static void __syncwarp(unsigned = 0) { __syncthreads(); }
static unsigned __activemask() { return ~0u; }
template <class T> static T from_lane(T value, int lane, bool inside) {
  memcpy(&exchanged[current], &value, sizeof value);
  __syncthreads();
  T found = value;
  int source = current / 32 * 32 + lane;
  if (inside && alive[source]) memcpy(&found, &exchanged[source], sizeof found);
  __syncthreads();
  return found;
}
template <class T> static T __shfl_sync(unsigned, T value, int lane, int = 32) { return from_lane(value, lane, true); }
template <class T> static T __shfl_down_sync(unsigned, T value, int by, int = 32) {
  return from_lane(value, current % 32 + by, current % 32 + by < 32);
}
template <class T> static T max(T a, T b) { return a > b ? a : b; }
template <class T> static T min(T a, T b) { return a < b ? a : b; }
#define __expf expf
static float rsqrtf(float x) { return 1 / sqrtf(x); }

#define alignas(n) __attribute__((aligned(n))) /* which may stand after `static`, as in CUDA */
#include "kernels.cu"
#undef alignas

typedef uint64_t Word;
typedef void (*Kernel)(Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word);
static Kernel kernel;
static std::vector<void*> given;

static void one_thread() {
  Word a[12] = {0};
  for (size_t i = 0; i < given.size(); ++i) a[i] = *(Word*)given[i];
  kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
  alive[current] = 0;
  swapcontext(&threads[current], &scheduler);
}

static void run_block() {
  int count = blockDim.x * blockDim.y * blockDim.z;
  memset(alive, 0, sizeof alive);
  for (int i = 0; i < count; ++i) {
    getcontext(&threads[i]);
    threads[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
    threads[i].uc_stack.ss_size = STACK;
    makecontext(&threads[i], one_thread, 0);
    alive[i] = 1;
  }
  for (bool more = true; more;) {
    more = false;
    for (current = 0; current < count; ++current) {
      if (!alive[current]) continue;
      threadIdx = {current % blockDim.x, current / blockDim.x % blockDim.y, current / (blockDim.x * blockDim.y)};
      swapcontext(&scheduler, &threads[current]);
      more |= alive[current];
    }
  }
}

static int fails(const char* function) {
  const char* asked = getenv("FAKE_CUDA_FAILS");
  return asked && !strcmp(asked, function);
}

extern "C" {
int cuInit(unsigned) { return fails("cuInit") ? 100 : 0; }
int cuGetErrorString(int code, const char** text) { return *text = code == 2 ? "out of memory" : "made to fail", 0; }
int cuDeviceGet(int* device, int) { return *device = 0, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const char* generation = getenv("FAKE_CUDA_GENERATION");
  int of = generation ? atoi(generation) : 80;
  return *value = attribute == 75 ? of / 10 : of % 10, 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &scheduler, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxPushCurrent_v2(void*) { return 0; }
int cuCtxPopCurrent_v2(void** context) { return *context = &scheduler, 0; }
int cuModuleLoadData(void** module, const void* image) {
  if (getenv("FAKE_CUDA_SHOWS")) fprintf(stderr, "image %.9s\n", (const char*)image);
  return *module = (void*)image, 0;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
  *function = dlsym(RTLD_DEFAULT, name);
  return *function ? 0 : 500;
}
int cuMemAlloc_v2(Word* address, size_t bytes) {
  if (fails("cuMemAlloc")) return 2;
  return *address = (Word)aligned_alloc(256, (bytes + 255) / 256 * 256), 0;
}
int cuMemFree_v2(Word address) { return free((void*)address), 0; }
static int start(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                 const std::vector<void*>& arguments) {
  if (!stacks) stacks = (char*)malloc((size_t)MOST * STACK);
  kernel = (Kernel)function, given = arguments, blockDim = {bx, by, bz};
  for (blockIdx.z = 0; blockIdx.z < gz; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < gy; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < gx; ++blockIdx.x) run_block();
  return 0;
}

// A stream records what it is told, with copies of all arguments, and a plan does it.
typedef std::vector<std::function<void()>> Steps;
static Steps* recording;
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   void*, void** arguments, void**) {
  if (fails("cuLaunchKernel")) return 1;
  std::vector<Word> values;
  for (; *arguments; ++arguments) values.push_back(*(Word*)*arguments); // cuda.c.in ends them with a null
  recording->push_back([=]() mutable {
    std::vector<void*> pointers;
    for (Word& value : values) pointers.push_back(&value);
    start(function, gx, gy, gz, bx, by, bz, pointers);
  });
  return 0;
}
int cuMemAllocHost_v2(void** address, size_t bytes) {
  if (fails("cuMemAllocHost")) return 2;
  return *address = malloc(bytes), 0;
}
int cuMemFreeHost(void* address) { return free(address), 0; }
int cuMemcpyHtoDAsync_v2(Word to, const void* from, size_t bytes, void*) {
  auto copy = [=] { memcpy((void*)to, from, bytes); };
  return recording ? recording->push_back(copy) : copy(), 0;
}
int cuMemcpyDtoHAsync_v2(void* to, Word from, size_t bytes, void*) {
  return recording->push_back([=] { memcpy(to, (void*)from, bytes); }), 0;
}
int cuEventCreate(double** event, unsigned) { return *event = new double, 0; }
int cuEventDestroy_v2(double* event) { return delete event, 0; }
int cuEventRecordWithFlags(double* event, void*, unsigned) {
  return recording->push_back([=] { *event = 1e3 * clock() / CLOCKS_PER_SEC; }), 0;
}
int cuEventElapsedTime(float* milliseconds, double* from, double* to) { return *milliseconds = *to - *from, 0; }
int cuStreamCreate(void** stream, unsigned) { return *stream = &scheduler, 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return fails("cuStreamSynchronize") ? 700 : 0; }
int cuStreamBeginCapture_v2(void*, int) { return recording = new Steps, 0; }
int cuStreamEndCapture(void*, Steps** graph) { return *graph = recording, recording = 0, 0; }
int cuGraphInstantiateWithFlags(Steps** plan, Steps* graph, Word) { return *plan = new Steps(*graph), 0; }
int cuGraphDestroy(Steps* graph) { return delete graph, 0; }
int cuGraphExecDestroy(Steps* plan) { return delete plan, 0; }
int cuGraphLaunch(Steps* plan, void*) {
  if (fails("cuGraphLaunch")) return 700;
  for (auto& step : *plan) step();
  return 0;
}
}
