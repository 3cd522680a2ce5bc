/* page_copy.h: copies pages of a latent cache. */
#ifndef HADAL_PAGE_COPY_H
#define HADAL_PAGE_COPY_H

#include "weight.h"

typedef struct PageCopyParams {
  void *cache;           /* [n_page, page_bytes]: one layer */
  const uint32_t *from;  /* [n_copy] pages */
  const uint32_t *to;    /* [n_copy] pages, each once, none of them in `from` */
  uint32_t n_copy;
  uint32_t page_bytes;   /* a multiple of 16 */
} PageCopyParams;
ABI_SIZE(PageCopyParams, 3, 2);

#endif
