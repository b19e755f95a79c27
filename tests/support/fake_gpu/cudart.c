/* A CUDA runtime without a GPU: memory is the host's, kernels do nothing, and what is asked of it
   is counted. Functions that are not here do nothing and succeed. It has the numbers of an H100. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static long handle;
static int capturing;
long fake_copies[5];   /* by kind: 1 to the device, 2 to the host, 3 within it */
long fake_allocations, fake_captures, fake_replays, fake_waits;
long fake_capture_fails;
long fake_odd;         /* bytes by which memory begins off where CUDA's does */

static int allocate(void **p, size_t size) {
  fake_allocations++;
  /* Kernels are chosen by where memory begins: at a multiple of 256. What is freed is the start. */
  char *start = calloc(1, size + 512);
  if (!start) return 2;
  char *begin = (char *)(((size_t)start + sizeof(start) + 255) & ~(size_t)255);
  begin += fake_odd;
  memcpy(begin - sizeof(start), &start, sizeof(start));
  *p = begin;
  return 0;
}

static int release(char *p) {
  char *start = NULL;
  if (p) memcpy(&start, p - sizeof(start), sizeof(start));
  free(start);
  return 0;
}

/* What was launched since the last time, a name a line. */
char fake_launched[1 << 20];

void fake_note(const char *what) {
  size_t used = strlen(fake_launched);
  if (used + strlen(what) + 2 < sizeof(fake_launched)) {
    strcpy(fake_launched + used, what);
    strcat(fake_launched, "\n");
  }
}

static struct { const void *launch; const char *name; } kernels[1 << 18];
static int known;

void __cudaRegisterFunction(void **f, const void *launch, char *device, const char *name) {
  if (known == sizeof(kernels) / sizeof(kernels[0])) return;
  kernels[known].launch = launch;
  kernels[known++].name = strdup(name);
}

static int launch(const void *kernel) {
  int i = 0;
  while (i < known && kernels[i].launch != kernel) i++;
  fake_note(i < known ? kernels[i].name : "unknown");
  return 0;
}

static int copy(void *to, const void *from, size_t size, int kind) {
  if (!capturing) fake_copies[kind]++;
  memmove(to, from, size);
  return 0;
}

int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = (size_t)8 << 30; *t = (size_t)16 << 30; return 0; }
int cudaMalloc(void **p, size_t n) { return allocate(p, n); }
int cudaMallocHost(void **p, size_t n) { return allocate(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return allocate(p, n); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *q, void *s) { return allocate(p, n); }
int cudaFree(void *p) { return release(p); }
int cudaFreeHost(void *p) { return release(p); }
int cudaFreeAsync(void *p, void *s) { return release(p); }
int cudaMemcpy(void *d, const void *s, size_t n, int k) { return copy(d, s, n, k); }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *t) { return copy(d, s, n, k); }
int cudaMemcpy3DAsync(void *p, void *t) { fake_copies[3]++; return 0; }
int cudaMemset(void *d, int v, size_t n) { memset(d, v, n); return 0; }
int cudaMemsetAsync(void *d, int v, size_t n, void *t) {
  fake_note("memset");
  memset(d, v, n);
  return 0;
}
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }

int cudaDeviceGetAttribute(int *v, int attribute, int device) {
  switch (attribute) {
    case 16: *v = 132; break;     /* multiprocessors */
    case 75: *v = 9; break;       /* compute capability */
    case 76: *v = 0; break;
    case 97: *v = 232448; break;  /* shared memory of a block */
    default: *v = 1;
  }
  return 0;
}

int cudaGetDeviceProperties(char *p, int device) {
  memset(p, 0, 900);
  strcpy(p, "no GPU");
  *(size_t *)(p + 288) = (size_t)16 << 30;  /* memory */
  *(size_t *)(p + 296) = 49152;             /* shared memory of a block */
  *(int *)(p + 304) = 65536;                /* registers */
  *(int *)(p + 308) = 32;                   /* threads of a warp */
  *(int *)(p + 320) = 1024;                 /* threads of a block */
  *(int *)(p + 324) = *(int *)(p + 328) = 1024, *(int *)(p + 332) = 64;
  *(int *)(p + 336) = 2147483647, *(int *)(p + 340) = *(int *)(p + 344) = 65535; /* blocks */
  *(int *)(p + 360) = 9;                    /* compute capability */
  *(int *)(p + 364) = 0;
  *(int *)(p + 384) = 132;                  /* multiprocessors */
  *(int *)(p + 604) = 2048;                 /* threads of one */
  *(size_t *)(p + 624) = 233472;            /* shared memory of one */
  *(size_t *)(p + 672) = 232448;            /* shared memory of a block that asks for more */
  return 0;
}

int cudaStreamCreate(void **s) { *s = &handle; return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = &handle; return 0; }
int cudaStreamSynchronize(void *s) { fake_waits++; return 0; }
int cudaStreamBeginCapture(void *s, int m) { capturing = 1; fake_captures++; return 0; }
int cudaStreamIsCapturing(void *s, int *o) { *o = capturing; return 0; }
int cudaStreamEndCapture(void *s, void **g) {
  int failed = !capturing ? 401 : fake_capture_fails ? 901 : 0;  /* illegal state, invalidated */
  capturing = 0;
  *g = failed ? NULL : &handle;
  return failed;
}
int cudaGraphInstantiate(void **e, void *g, unsigned long long f) { *e = &handle; return 0; }
int cudaGraphLaunch(void *g, void *s) { fake_replays++; return 0; }
int cudaEventCreate(void **e) { *e = &handle; return 0; }
int cudaEventCreateWithFlags(void **e, unsigned f) { *e = &handle; return 0; }
int cudaEventElapsedTime(float *t, void *a, void *b) { *t = 1; return 0; }
int cudaMemPoolCreate(void **p, void *q) { *p = &handle; return 0; }
int cudaMemPoolGetAttribute(void *p, int a, void *v) { *(size_t *)v = 0; return 0; }
int cudaFuncGetAttributes(char *a, void *f) { memset(a, 0, 64); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, void *f, int b, size_t s,
                                                           unsigned x) { *n = 2; return 0; }
int cudaPointerGetAttributes(char *a, void *p) { memset(a, 0, 32); *(int *)a = 2; return 0; }
const char *cudaGetErrorString(int e) { return "an error of the fake"; }
const char *cudaGetErrorName(int e) { return "fakeError"; }
void **__cudaRegisterFatBinary(void *p) { static void *x[4]; return x; }
int cudaLibraryLoadData(void **l) { *l = &handle; return 0; }

/* Kernels are known by where their launch on the host begins; a library's, by their names alone. */
int __cudaGetKernel(const void **k, const void *launch) { *k = launch; return 0; }
int cudaLibraryGetKernel(void **k, void *library, const char *name) {
  __cudaRegisterFunction(NULL, *k = strdup(name), NULL, name);
  return 0;
}
int __cudaLaunchKernel(const void *k) { return launch(k); }
int cudaLaunchKernel(const void *k) { return launch(k); }
int cudaLaunchKernelExC(const void *how, const void *k) { return launch(k); }
int cudaLaunchCooperativeKernel(const void *k) { return launch(k); }

/* The sizes of a launch go from one function of the compiler's to the other. */
static struct { unsigned of[6]; size_t shared; void *stream; } told;
struct three { unsigned x, y, z; };
int __cudaPushCallConfiguration(struct three g, struct three b, size_t shared, void *stream) {
  memcpy(told.of, &g, sizeof(g)), memcpy(told.of + 3, &b, sizeof(b));
  told.shared = shared, told.stream = stream;
  return 0;
}
int __cudaPopCallConfiguration(unsigned *g, unsigned *b, size_t *shared, void **stream) {
  memcpy(g, told.of, 12), memcpy(b, told.of + 3, 12);
  *shared = told.shared, *stream = told.stream;
  return 0;
}
