/* A CUDA runtime without a GPU: memory is the host's, kernels do nothing, and what is asked of it
   is counted. Functions that are not here do nothing and succeed. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static long handle;
static int capturing;
long fake_copies[5];   /* by kind: 1 to the device, 2 to the host, 3 within it */
long fake_allocations, fake_captures, fake_replays, fake_waits;
long fake_capture_fails;

static int allocate(void **p, size_t size) {
  fake_allocations++;
  *p = calloc(1, size ? size : 1);
  return *p ? 0 : 2;
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
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaFreeAsync(void *p, void *s) { free(p); return 0; }
int cudaMemcpy(void *d, const void *s, size_t n, int k) { return copy(d, s, n, k); }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *t) { return copy(d, s, n, k); }
int cudaMemcpy3DAsync(void *p, void *t) { fake_copies[3]++; return 0; }
int cudaMemset(void *d, int v, size_t n) { memset(d, v, n); return 0; }
int cudaMemsetAsync(void *d, int v, size_t n, void *t) { memset(d, v, n); return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }

int cudaDeviceGetAttribute(int *v, int attribute, int device) {
  switch (attribute) {
    case 16: *v = 80; break;      /* multiprocessors */
    case 75: *v = 8; break;       /* compute capability */
    case 76: *v = 9; break;
    case 97: *v = 101376; break;  /* shared memory of a block */
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
  *(int *)(p + 360) = 8;                    /* compute capability */
  *(int *)(p + 364) = 9;
  *(int *)(p + 384) = 80;                   /* multiprocessors */
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
int cudaLibraryGetKernel(void **k) { *k = &handle; return 0; }
int __cudaGetKernel(void **k) { *k = &handle; return 0; }
